//! The kernel's test of shadow variables (test-shadow-vars.sh), A22 and B shadow.

#![expect(clippy::disallowed_methods, reason = "tests may abort without memory")]

use std::convert::Infallible;

use engraft_core::{ShadowError, ShadowStore};

const OBJECTS: [u64; 3] = [0x1000, 0x2000, 0x3000];
const COUNTER: u64 = 0x1234;
const FLAG: u64 = 0x1235;

fn made(data: u64) -> impl FnOnce() -> Result<u64, Infallible> {
    move || Ok(data)
}

fn never() -> Result<u64, Infallible> {
    unreachable!("the constructor must not run")
}

#[test]
fn the_kernels_selftest() {
    let mut shadow = ShadowStore::new();
    assert_eq!(shadow.get(OBJECTS[0], COUNTER), None);
    for (data, object) in (1..).zip(OBJECTS) {
        assert_eq!(shadow.alloc(object, COUNTER, made(data)), Ok(data));
        assert_eq!(
            shadow.get_or_alloc(object, FLAG, made(data + 10)),
            Ok(data + 10)
        );
    }
    for (data, object) in (1..).zip(OBJECTS) {
        assert_eq!(shadow.get(object, COUNTER), Some(data));
        assert_eq!(shadow.get_or_alloc(object, FLAG, never), Ok(data + 10));
    }
    let mut freed = Vec::new();
    assert!(shadow.free(OBJECTS[1], COUNTER, |data| freed.push(data)));
    assert!(!shadow.free(OBJECTS[1], COUNTER, |data| freed.push(data)));
    assert_eq!(freed, [2]);
    assert_eq!(shadow.get(OBJECTS[1], FLAG), Some(12));
    shadow.free_all(FLAG, |object, data| freed.extend([object, data]));
    assert_eq!(freed, [2, 0x1000, 11, 0x2000, 12, 0x3000, 13]);
    assert_eq!(shadow.get(OBJECTS[0], FLAG), None);
    assert_eq!(shadow.get(OBJECTS[0], COUNTER), Some(1));
    shadow.free_all(COUNTER, |_, _| {});
    assert!(shadow.is_empty());
}

#[test]
fn a_second_alloc_is_told_what_there_is() {
    let mut shadow = ShadowStore::new();
    shadow.alloc(1, 2, made(3)).expect("room");
    assert_eq!(shadow.alloc(1, 2, never), Err(ShadowError::Exists(3)));
}

#[test]
fn a_constructor_that_fails_leaves_nothing() {
    let mut shadow = ShadowStore::new();
    shadow.alloc(9, 9, made(1)).expect("room");
    let before = shadow.clone();
    assert_eq!(
        shadow.alloc(1, 2, || Err("EIO")),
        Err(ShadowError::Construct("EIO"))
    );
    assert_eq!(shadow, before);
}
