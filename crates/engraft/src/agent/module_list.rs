//! The loaded modules, in the form that the agent takes them over.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use engraft_abi::{Bytes, LoadedModule, Table};
use engraft_process::{BuildId, Module, ModuleKind, Modules, Process, TargetAddress};
use zerocopy::IntoBytes;

use crate::agent::payload::build_id_bytes;
use crate::agent::program_headers::program_headers;
use crate::error::Error;

/// Those that the loader has, or of a process without
/// a loader the program alone.
pub(crate) fn module_list(process: &Process, modules: &Modules) -> Result<Vec<u8>, Error> {
    let listed = |module: &&Module| match modules.loader() {
        Some(_) => module.link_map.is_some(),
        None => module.kind == ModuleKind::Program,
    };
    let listed: Vec<_> = modules.iter().filter(listed).collect();
    let header = size_of::<Table>();
    let mut paths = Vec::new();
    let start = header + listed.len() * size_of::<LoadedModule>();
    let mut records = Vec::new();
    for module in &listed {
        let name = module.name.as_bytes();
        let range = module.range();
        records.push(LoadedModule {
            link_map: module.link_map.map_or(0, TargetAddress::get),
            dynamic: module.dynamic.map_or(0, TargetAddress::get),
            load_bias: module.load_bias,
            program_headers: program_headers(process, module)?.get(),
            program_header_count: module.program_headers.len() as u64,
            start: range.start.get(),
            end: range.end.get(),
            build_id: build_id_bytes(module.build_id.as_ref().map_or(&[], BuildId::as_bytes)),
            path: Bytes {
                offset: (start + paths.len()) as u32,
                length: name.len() as u32,
            },
            find_fde: find_fde(process, module),
        });
        paths.extend_from_slice(name);
    }
    let table = Table {
        offset: header as u32,
        count: records.len() as u32,
    };
    Ok([table.as_bytes(), records.as_bytes(), &paths].concat())
}

/// The function by which an unwinder finds call frame information: libgcc's, linked statically or as a library; 0 if
/// there is none, or no symbol that says so. That of a library that comes later the agent finds. It could find these,
/// too, but each of its system calls stops twice for us, which takes long next to hundreds of busy threads.
fn find_fde(process: &Process, module: &Module) -> u64 {
    const NAME: &str = "_Unwind_Find_FDE";
    let found = match module.kind {
        ModuleKind::Program => module.function(process, NAME),
        // Whatever fails here, the agent tries once more.
        _ if is_libgcc(module) => module
            .symbol(process.memory(), NAME.as_bytes())
            .ok()
            .flatten(),
        _ => None,
    };
    found.map_or(0, TargetAddress::get)
}

fn is_libgcc(module: &Module) -> bool {
    let path = Path::new(&module.name);
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b"libgcc_s")
}
