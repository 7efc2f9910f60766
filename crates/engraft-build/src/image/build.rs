//! The order in which an image is built.

use engraft_patch::Object;

use super::builder::Builder;
use super::changed::owners_of_removed;
use super::linked_unit::LinkedUnit;
use crate::binary::Binary;
use crate::refusal::Refusal;

/// Builds the image of one binary from the objects that are in it.
pub(crate) fn build(binary: &Binary, linked: &[LinkedUnit<'_>]) -> Result<Object, Vec<Refusal>> {
    let mut builder = Builder::new(binary, linked);
    let mut functions = Vec::new();
    for (unit, object) in linked.iter().enumerate() {
        let removed = owners_of_removed(object);
        for original in object.changed() {
            match builder.function(unit, original, &removed) {
                Ok(changed) => functions.push(changed),
                Err(refusal) => builder.refusals.push(refusal),
            }
        }
    }
    builder.include_referenced();
    let mut trampolines = Vec::new();
    let functions = functions.into_iter();
    let functions = functions.map(|changed| changed.finish(&mut builder, &mut trampolines));
    let functions = functions.collect();
    let unwind = builder.unwind(&trampolines);
    // What cleans up may be the fix's own.
    builder.include_referenced();
    builder.finish_thunks();
    if !builder.refusals.is_empty() {
        builder.refusals.dedup();
        return Err(builder.refusals);
    }
    let image = builder.draft.finish(unwind, builder.escapes);
    let (build_id, file_name) = (binary.build_id, binary.file_name());
    Ok(Object {
        build_id,
        file_name,
        functions,
        image,
    })
}
