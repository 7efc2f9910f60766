//! What new code refers to, and where it finds it.

use engraft_patch::{Image, ImageAddress, Object, RelocationKind, RelocationTarget, Segment};

use crate::support::{LIBRARY, NO_PIE, PIE, Project, function, imports, names, referenced};

const ALL: [(&str, &str); 3] = [
    (PIE, "program"),
    (NO_PIE, "program"),
    (LIBRARY, "libpart.so"),
];

/// The relocations inside a function's new code.
fn in_function<'o>(
    object: &'o Object,
    name: &str,
) -> Vec<(&'o RelocationTarget, RelocationKind, i64)> {
    let function = function(object, name);
    let range = function.new_entry.offset..function.new_entry.offset + function.new_size;
    let inside =
        |place: &ImageAddress| place.segment == Segment::Text && range.contains(&place.offset);
    let relocations = object.image.relocations.iter().filter(|r| inside(&r.place));
    relocations.map(|r| (&r.target, r.kind, r.addend)).collect()
}

fn has_text(image: &Image, text: &str) -> bool {
    image
        .read_only
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

/// GCC has a recursive exported function of a library call itself by a local name, and others by
/// the PLT.
#[test]
fn a_recursive_exported_function() {
    let part = "#include <stdlib.h>\n\
        struct node { int kind, count; struct node **child; };\n\
        void release(struct node *p) { if (!p) return;\n\
          if (p->kind == 2) for (int i = 0; i < p->count; i++) release(p->child[i]);\n\
          free(p->child); free(p); }\n\
        struct node *make(int kind, int count) { struct node *p = calloc(1, sizeof *p); if (!p) return 0;\n\
          p->kind = kind; p->count = count; p->child = calloc(count, sizeof *p->child);\n\
          if (!p->child) { release(p); return 0; } return p; }\n";
    let project = Project::new(LIBRARY, part);
    project.run("strip", &["-o", "stripped.so", "libpart.so"]);
    for binary in ["libpart.so", "stripped.so"] {
        let object = project.build(
            &[(
                "part.c",
                "if (!p) return 0",
                "if (!p || count > 9) return 0",
            )],
            binary,
        );
        assert_eq!(names(&object), ["make"]);
        let object = project.build(
            &[("part.c", "p->kind == 2", "p->kind == 2 && p->child")],
            binary,
        );
        assert_eq!(names(&object), ["release"]);
        // It goes on calling itself, and not through the PLT.
        let (address, _) = project.symbols("libpart.so", "release")[0];
        assert_eq!(referenced(&object, "release"), Some(address), "{binary}");
    }
}

#[test]
fn string_literals_come_along() {
    for (makefile, binary) in ALL {
        let project = Project::new(
            makefile,
            "#include <stdio.h>\nint part(int x) { printf(\"old words %d\\n\", x); return x + 1; }\n",
        );
        let object = project.build(&[("part.c", "old words %d", "quite new words %d")], binary);
        assert_eq!(names(&object), ["part"]);
        assert!(has_text(&object.image, "quite new words %d\n\0"));
    }
}

#[test]
fn a_libc_call_that_the_binary_imports_goes_through_its_slot() {
    for (makefile, binary) in ALL {
        let project = Project::new(
            makefile,
            "#include <stdio.h>\nint part(int x) { printf(\"a %d\\n\", x); return x + 1; }\n",
        );
        let object = project.build(
            &[(
                "part.c",
                "return x + 1",
                "printf(\"b\\t%d\\n\", x); return x",
            )],
            binary,
        );
        let relocations = project.run("readelf", &["-rW", binary]);
        let slot = relocations
            .lines()
            .find(|line| line.contains(" printf"))
            .unwrap();
        let slot = u64::from_str_radix(slot.split(' ').next().unwrap(), 16).unwrap();
        assert_eq!(referenced(&object, "printf.got"), Some(slot));
        assert!(imports(&object).is_empty());
    }
}

#[test]
fn a_libc_call_that_is_new_gets_a_slot() {
    for (makefile, binary) in ALL {
        let project = Project::new(
            makefile,
            "#include <stdlib.h>\nint part(int x) { return x * 9 + 1; }\n",
        );
        let object = project.build(
            &[("part.c", "return x * 9", "return rand() + x * 9")],
            binary,
        );
        assert_eq!(imports(&object), ["rand"]);
        let slot = object
            .image
            .relocations
            .iter()
            .find(|r| matches!(r.target, RelocationTarget::Import(_)))
            .unwrap();
        assert_eq!(
            (slot.place.segment, slot.kind),
            (Segment::Data, RelocationKind::Absolute64)
        );
        // The stub: jmp *slot(%rip).
        let stub = object
            .image
            .relocations
            .iter()
            .find(|r| r.target == RelocationTarget::Image(slot.place))
            .unwrap();
        let place = usize::try_from(stub.place.offset).unwrap();
        assert_eq!(object.image.text[place - 2..place], [0xff, 0x25]);
        assert_eq!(stub.addend, -4);
    }
}

#[test]
fn a_call_inside_the_image_leads_to_the_stub() {
    let project = Project::new(
        PIE,
        "#include <stdlib.h>\nint part(int x) { return x * 9 + 1; }\n",
    );
    let object = project.build(
        &[("part.c", "return x * 9", "return rand() + x * 9")],
        "program",
    );
    let text = &object.image.text;
    let call = text
        .windows(5)
        .position(|w| w[0] == 0xe8 && w[1..] != [0; 4])
        .unwrap();
    let distance = i32::from_le_bytes(text[call + 1..call + 5].try_into().unwrap());
    let target = usize::try_from(i64::try_from(call).unwrap() + 5 + i64::from(distance)).unwrap();
    assert_eq!(text[target..target + 2], [0xff, 0x25]);
}

#[test]
fn a_patched_function_is_always_named_by_its_old_entry() {
    for (makefile, binary) in ALL {
        let project = Project::new(
            makefile,
            "static __attribute__((noinline)) int leaf(int x) { return x * 11 + 3; }
             static int (*volatile hook)(int);
             int part(int x) { hook = leaf; return leaf(x) + leaf(x + 1) + hook(x); }\n",
        );
        let edits = [
            ("part.c", "x * 11 + 3", "x * 13 + 5"),
            ("part.c", "leaf(x + 1)", "leaf(x - 1)"),
        ];
        let object = project.build(&edits, binary);
        assert_eq!(names(&object), ["leaf", "part"]);
        let leaf = project.symbol(binary, "leaf").0;
        let targets = in_function(&object, "part");
        let to_leaf = targets.iter().filter(|(target, ..)| {
            matches!(target, RelocationTarget::Object { name, address } if name == "leaf" && address.0 == leaf)
        });
        // Two calls and one pointer.
        assert_eq!(to_leaf.count(), 3);
        assert!(!object.image.address_escapes);
    }
}

#[test]
fn a_static_function_that_refers_to_itself_means_its_old_entry() {
    for (makefile, binary) in ALL {
        let project = Project::new(
            makefile,
            "static void *volatile state;
             static __attribute__((noipa)) int walk(int x) {
                 if (x < 2) { state = (void *)walk; return 1; }
                 return walk(x - 1) * walk(x - 2) + 3;
             }
             int part(int x) { return walk(x); }\n",
        );
        let object = project.build(&[("part.c", "+ 3", "+ 4")], binary);
        assert_eq!(names(&object), ["walk"], "{makefile}");
        let walk = project.symbol(binary, "walk").0;
        let targets = in_function(&object, "walk");
        let itself = targets.iter().filter(|(target, ..)| {
            matches!(target, RelocationTarget::Object { name, address } if name == "walk" && address.0 == walk)
        });
        assert!(itself.count() >= 2, "{makefile}: {targets:?}");
        assert!(!object.image.address_escapes);
    }
}

#[test]
fn new_functions_are_in_the_image() {
    let part = "int part(int x) { return x * 9 + 1; }\n";
    let project = Project::new(LIBRARY, part);
    let new = "static __attribute__((noinline)) int fresh(int x) { return x / 3 - 7; }\nint part(int x) { return fresh(x)";
    let object = project.build(
        &[("part.c", "int part(int x) { return x * 9", new)],
        "libpart.so",
    );
    assert_eq!(names(&object), ["part"]);
    assert!(!object.image.address_escapes, "only called");
    assert!(referenced(&object, "fresh").is_none());

    let new = "static __attribute__((noinline)) int fresh(int x) { return x / 3 - 7; }\nint (*volatile hook)(int);\nint part(int x) { hook = fresh; return x * 9";
    let object = project.build(
        &[("part.c", "int part(int x) { return x * 9", new)],
        "libpart.so",
    );
    assert!(object.image.address_escapes, "stored");
}

#[test]
fn new_variables_are_in_the_image() {
    for (makefile, binary) in ALL {
        let project = Project::new(makefile, "int part(int x) { return x * 9 + 1; }\n");
        let new = "static int seen;\nstatic int limit = 1234;\nvoid set(int x) { limit = x; }\nint part(int x) { if (++seen > limit) return 0; return x * 9";
        let object = project.build(&[("part.c", "int part(int x) { return x * 9", new)], binary);
        assert_eq!(names(&object), ["part"]);
        assert_eq!(object.image.bss_size, 4);
        // `set` is not used by anything that changed, but `limit` is.
        assert!(
            object
                .image
                .data
                .windows(4)
                .any(|w| w == 1234u32.to_le_bytes())
        );
    }
}

#[test]
fn static_locals_keep_their_place_when_they_are_renumbered() {
    let part =
        "static __attribute__((noinline)) int other(int x) { static int count; return count += x; }
         int part(int x) { static int count; count += x; return count * 3 + other(x); }\n";
    for (makefile, binary) in ALL {
        let project = Project::new(makefile, part);
        let new = "int fresh(int x) { static int count; static int more; return count++ + more++ + x; }\nint part(int x) { static int count; count += x + fresh(x); return count * 3";
        let object = project.build(
            &[(
                "part.c",
                "int part(int x) { static int count; count += x; return count * 3",
                new,
            )],
            binary,
        );
        assert_eq!(names(&object), ["part"]);
        let old = project.symbols(binary, "count");
        assert_eq!(old.len(), 2);
        let address = function(&object, "part").parts[0].address.0;
        let disassembly = project.run(
            "objdump",
            &[
                "-d",
                "-M",
                "intel",
                &format!("--start-address={address}"),
                binary,
            ],
        );
        let count = object
            .image
            .relocations
            .iter()
            .find_map(|r| match &r.target {
                RelocationTarget::Object { name, address } if name.starts_with("count") => {
                    Some(address.0)
                }
                _ => None,
            })
            .unwrap();
        // The one that the old `part` uses, not that of `other`.
        let symbol = format!("{count:x} <count");
        let absolute = format!("{count:#x}");
        let body: Vec<_> = disassembly
            .lines()
            .take_while(|line| !line.contains("ret"))
            .collect();
        let uses = body
            .iter()
            .any(|line| line.contains(&symbol) || line.contains(&absolute));
        assert!(uses, "{count:#x}\n{disassembly}");
        assert!(object.image.bss_size >= 8, "fresh's own two are new");
    }
}

#[test]
fn switch_tables_come_along() {
    let cases = "case 0: f(3); break; case 1: f(x); break; case 2: g(x); break; case 3: f(9); g(2); break; case 4: g(4); break; case 5: f(77); break;";
    let part = format!(
        "extern void abort(void);
         static volatile int sink;
         __attribute__((noinline)) void f(int x) {{ sink = x * 3; }}
         __attribute__((noinline)) void g(int x) {{ sink = x * 5 + 1; }}
         int part(int x) {{ switch (x) {{ {cases} default: abort(); }} return sink; }}\n"
    );
    for (makefile, binary) in ALL {
        let project = Project::new(makefile, &part);
        let object = project.build(
            &[(
                "part.c",
                "f(77); break;",
                "f(78); break; case 6: g(6); break;",
            )],
            binary,
        );
        assert_eq!(names(&object), ["part"]);
        let part = function(&object, "part");
        let inside = part.new_entry.offset..part.new_entry.offset + part.new_size;
        // Call frame information stands behind the table.
        let frames = object.image.unwind.unwrap().start.offset;
        let entries = object
            .image
            .relocations
            .iter()
            .filter(|r| r.place.segment == Segment::ReadOnly && r.place.offset < frames);
        let mut count = 0;
        for entry in entries {
            let RelocationTarget::Image(target) = &entry.target else {
                panic!("{entry:?}")
            };
            assert_eq!(target.segment, Segment::Text);
            let from_table = if entry.kind == RelocationKind::PcRelative32 {
                entry.place.offset
            } else {
                0
            };
            let label = target
                .offset
                .wrapping_add_signed(entry.addend)
                .wrapping_sub(from_table);
            assert!(inside.contains(&label), "{entry:?}");
            count += 1;
        }
        assert_eq!(count, 7, "{makefile}");
    }
}

#[test]
fn the_values_of_a_switch_come_along() {
    let part = "int part(int x) { switch (x) { case 0: return 17; case 1: return 4; case 2: return 99; case 3: return 12; case 4: return 71; default: return -1; } }\n";
    let project = Project::new(PIE, part);
    let object = project.build(&[("part.c", "return 99", "return 98")], "program");
    assert_eq!(names(&object), ["part"]);
    let values: Vec<u8> = [17u32, 4, 98, 12, 71]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    assert!(
        object
            .image
            .read_only
            .windows(values.len())
            .any(|w| w == values)
    );
}

#[test]
fn a_static_table_of_a_changed_function_comes_along() {
    let part = "static const int table[4] = { 5, 6, 7, 8 };\nint part(int x) { return table[x & 3] + x; }\n";
    let project = Project::new(PIE, part);
    let edits = [("part.c", "7, 8", "7, 9"), ("part.c", "+ x;", "- x;")];
    let object = project.build(&edits, "program");
    let values: Vec<u8> = [5u32, 6, 7, 9]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    assert!(
        object
            .image
            .read_only
            .windows(values.len())
            .any(|w| w == values)
    );
}

#[test]
fn global_variables_of_a_library_are_found_through_its_slots() {
    let part = "int level = 3;\nint part(int x) { return level + x * 9; }\nint use(void) { return level; }\n";
    let project = Project::new(LIBRARY, part);
    let object = project.build(&[("part.c", "x * 9", "x * 10")], "libpart.so");
    let relocations = project.run("readelf", &["-rW", "libpart.so"]);
    let slot = relocations
        .lines()
        .find(|line| line.contains(" level"))
        .unwrap();
    let slot = u64::from_str_radix(slot.split(' ').next().unwrap(), 16).unwrap();
    assert_eq!(referenced(&object, "level.got"), Some(slot));
}

#[test]
fn variables_behind_relaxed_slots_get_slots_of_their_own() {
    // -fPIC code in a program: the linker needs no GOT for `level`, the code as compiled does.
    let makefile = format!("{PIE}CFLAGS += -fPIC\n");
    let part = "int level = 3;\nint part(int x) { return level + x * 9; }\n";
    let project = Project::new(&makefile, part);
    let object = project.build(&[("part.c", "x * 9", "x * 10")], "program");
    assert_eq!(
        referenced(&object, "level"),
        Some(project.symbol("program", "level").0)
    );
    let slot = object
        .image
        .relocations
        .iter()
        .find(|r| r.place.segment == Segment::Data)
        .unwrap();
    assert_eq!(slot.kind, RelocationKind::Absolute64);
}

#[test]
fn imported_data_that_the_binary_uses() {
    let part = "#include <stdio.h>\nint part(int x) { fprintf(stderr, \"a %d\", x); return x; }\n";
    for (makefile, binary) in ALL {
        let project = Project::new(makefile, part);
        let object = project.build(
            &[("part.c", "return x;", "fflush(stderr); return x - 1;")],
            binary,
        );
        let name = if binary == "program" {
            "stderr"
        } else {
            "stderr.got"
        };
        assert!(
            referenced(&object, name).is_some(),
            "{makefile}: {:?}",
            object.image.relocations
        );
        assert_eq!(imports(&object), ["fflush"]);
    }
}

#[test]
fn thread_local_variables_that_the_binary_uses() {
    let part = "static __thread int mine;\n__thread int shared;\nint part(int x) { mine += x; shared -= x; return mine * shared; }\n";
    for (makefile, binary) in ALL {
        let project = Project::new(makefile, part);
        let object = project.build(&[("part.c", "mine * shared", "mine * shared + 1")], binary);
        assert_eq!(names(&object), ["part"]);
        // In a program the offsets from the thread pointer are constants that the old code has too.
        let tls = object.image.relocations.iter().filter(|r| {
            matches!(&r.target, RelocationTarget::Object { name, .. } if name.ends_with(".tls"))
        });
        assert_eq!(tls.count() > 0, binary == "libpart.so");
    }
}

#[test]
fn a_new_function_of_one_file_used_in_another() {
    let main = "int part(int);\nint main(int c, char **v) { (void)v; return part(c) + 1; }\n";
    let files = [
        ("main.c", main),
        ("part.c", "int part(int x) { return x * 9; }\n"),
    ];
    let project = Project::with_files(PIE, &files);
    let edits = [
        (
            "part.c",
            "int part",
            "int extra(int x) { return x ? x / 7 : 12; }\nint part",
        ),
        ("main.c", "int part(int);", "int part(int); int extra(int);"),
        ("main.c", "+ 1", "+ extra(c)"),
    ];
    let object = project.build(&edits, "program");
    assert_eq!(names(&object), ["main"]);
    assert!(imports(&object).is_empty());
}

const OPTIONAL: &str = "extern int hook(int) __attribute__((weak));\n\
    int part(int x) { return hook ? hook(x) * 9 : x * 7; }\n";

/// The linker writes 0 into the code.
fn without_dynamic_weak() -> String {
    let link = "-Wl,--build-id -Wl,-z,nodynamic-undefined-weak";
    format!("CPPFLAGS += -O0\n{}", PIE.replace("-Wl,--build-id", link))
}

/// A weak symbol that the binary does not define: its code or its slot says that its address is 0.
#[test]
fn a_weak_function_that_the_fix_defines() {
    let makefiles = [
        PIE.to_owned(),
        format!("CPPFLAGS += -fno-plt\n{PIE}"),
        without_dynamic_weak(),
    ];
    for makefile in makefiles {
        let project = Project::new(&makefile, OPTIONAL);
        let edits = [
            ("main.c", "return part(c)", "return part(c) + 1"),
            (
                "main.c",
                "int main",
                "int hook(int x) { return x + 5; }\nint main",
            ),
            ("part.c", "* 9", "* 8"),
        ];
        let object = project.build(&edits, "program");
        assert_eq!(names(&object), ["main", "part"]);
        assert_eq!(referenced(&object, "hook"), None);
        assert_eq!(referenced(&object, "hook.got"), None);
        assert!(imports(&object).is_empty());
        // A slot of the image for it, and one relocation that fills it.
        let leads_to_text = |relocation: &&engraft_patch::Relocation| {
            let target = &relocation.target;
            relocation.place.segment == Segment::Data
                && matches!(target, RelocationTarget::Image(at) if at.segment == Segment::Text)
        };
        let all = &object.image.relocations;
        assert_eq!(all.iter().filter(leads_to_text).count(), 1, "{all:#?}");
    }
}

#[test]
fn a_new_pointer_to_a_weak_function_that_nothing_defines_is_null() {
    let makefile = without_dynamic_weak();
    let project = Project::new(&makefile, OPTIONAL);
    let edits = [
        (
            "part.c",
            "int part(int x) {",
            "int part(int);\nint (*volatile table[2])(int) = { hook, part };\nint part(int x) {",
        ),
        ("part.c", "* 9", "* 8 + (table[x & 1] != 0)"),
    ];
    let object = project.build(&edits, "program");
    let all = &object.image.relocations;
    let pointers = all.iter().filter(|relocation| {
        relocation.place.segment == Segment::Data && relocation.kind == RelocationKind::Absolute64
    });
    let targets: Vec<_> = pointers.map(|relocation| &relocation.target).collect();
    assert!(
        matches!(*targets, [RelocationTarget::Object { name, .. }] if name == "part"),
        "{targets:?}"
    );
    assert_eq!(object.image.data.len(), 16);
    assert_eq!(object.image.data[..8], [0; 8]);
}
