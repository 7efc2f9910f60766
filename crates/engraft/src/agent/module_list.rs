//! The loaded modules, encoded for the agent, which learns them when it is attached.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use engraft_abi::{Bytes, LoadedModule, Table};
use engraft_process::{BuildId, Module, ModuleKind, Modules, Process, TargetAddress};
use zerocopy::IntoBytes;

use crate::agent::payload::build_id_bytes;
use crate::agent::program_headers::program_headers;
use crate::error::Error;

/// The modules in the loader's lists; of a process without a loader, the program alone.
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
            find_fde: find_fde(process, module).map_or(0, TargetAddress::get),
        });
        paths.extend_from_slice(name);
    }
    let table = Table {
        offset: header as u32,
        count: records.len() as u32,
    };
    Ok([table.as_bytes(), records.as_bytes(), &paths].concat())
}

/// The address of libgcc's function that finds call frame information, in libgcc itself or linked
/// into the program; `None` if there is none, or no symbol for it. In a library that comes later,
/// the agent finds the function. It could find it in these modules, too, but each system call of
/// the agent stops twice for the tracer, which takes long next to hundreds of busy threads.
pub(crate) fn find_fde(process: &Process, module: &Module) -> Option<TargetAddress> {
    const NAME: &str = "_Unwind_Find_FDE";
    match module.kind {
        ModuleKind::Program => module.function(process, NAME),
        // If this fails, the agent tries again.
        _ if is_libgcc(module) => module
            .symbol(process.memory(), NAME.as_bytes())
            .ok()
            .flatten(),
        _ => None,
    }
}

fn is_libgcc(module: &Module) -> bool {
    let path = Path::new(&module.name);
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b"libgcc_s")
}
