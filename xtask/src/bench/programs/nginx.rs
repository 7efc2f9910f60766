//! nginx: a master that sleeps elsewhere, and two workers in event loops.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::case::Case;
use super::clients::Question;
use super::server::{Server, free_port};
use super::workshop::{Fix, Workshop};

/// Without what needs further libraries. The objects go, so that a patch is made by compiling what
/// the fix changes and nothing else.
const BUILD: &str = "sh ./configure --with-cc-opt='-g -O2' --with-threads \
    --without-http_rewrite_module --without-http_gzip_module && make && find objs -name '*.o' -delete";

const EVENT_LOOP: &str = "make -f objs/Makefile objs/src/event/modules/ngx_epoll_module.o";
const STATIC: &str = "make -f objs/Makefile objs/src/http/modules/ngx_http_static_module.o";

const GET: Question = Question {
    request: "GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n",
    begins: "HTTP/1.1 200 OK\r\n",
    ends: "\r\n\r\npong\n",
};

pub(super) fn case(workshop: &Workshop<'_>) -> Result<Case> {
    let nginx = workshop.built("nginx", "1.22.1-9+deb12u9", BUILD)?;
    let program = nginx.tree.join("objs/nginx");
    let patch = |name, function, build| {
        workshop.patch(&Fix {
            name,
            function,
            tree: &nginx.tree,
            binary: &program,
            build,
        })
    };
    let patches = [
        patch("nginx-event-loop", "ngx_epoll_process_events", EVENT_LOOP)?,
        patch("nginx-static", "ngx_http_static_handler", STATIC)?,
    ];
    let home = workshop.path("nginx-home");
    for directory in ["logs", "html"] {
        fs::create_dir_all(home.join(directory))?;
    }
    fs::write(home.join("html/page"), "pong\n")?;
    let start = move || {
        let port = free_port()?;
        fs::write(home.join("nginx.conf"), configuration(port))?;
        let mut command = Command::new(&program);
        command.arg("-p").arg(&home).args(["-c", "nginx.conf"]);
        Server::that_listens(&mut command, port)
    };
    Ok(Case {
        name: format!("nginx {}, 2 workers", nginx.version),
        patches,
        start: Box::new(start),
        question: Some(GET),
    })
}

/// Each worker listens for itself, so that each gets some of the clients.
fn configuration(port: u16) -> String {
    format!(
        "daemon off;
user root;
worker_processes 2;
events {{ }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    server {{
        listen 127.0.0.1:{port} reuseport;
        root html;
    }}
}}
"
    )
}
