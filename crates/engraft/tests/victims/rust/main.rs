// A Rust program: threads of its own, and a function in Rust beside the one in C.
use std::io::{BufRead, Write};

unsafe extern "C" {
    fn from_c(n: i32) -> i32;
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn from_rust(n: i32) -> i32 {
    n + 200
}

fn main() {
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let n: i32 = line.unwrap().parse().unwrap_or(0);
        // A thread a line, so that the runtime is at work.
        let answer = std::thread::spawn(move || (unsafe { from_c(n) }, std::hint::black_box(from_rust as extern "C" fn(i32) -> i32)(n)));
        let (c, rust) = answer.join().unwrap();
        println!("c={c} rust={rust}");
        std::io::stdout().flush().unwrap();
    }
}
