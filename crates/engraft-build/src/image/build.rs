//! The order in which an image is built.

use engraft_patch::Object;

use super::builder::Builder;
use super::changed::owners_of_removed;
use super::placed::Placed;
use crate::binary::Binary;
use crate::refusal::Refusal;

/// Builds the image of one binary from the objects that are in it.
pub(crate) fn build(binary: &Binary, placed: &[Placed<'_>]) -> Result<Object, Vec<Refusal>> {
    let mut builder = Builder::new(binary, placed);
    let mut functions = Vec::new();
    for (unit, object) in placed.iter().enumerate() {
        let removed = owners_of_removed(object);
        for original in object.changed() {
            match builder.function(unit, original, &removed) {
                Ok(changed) => functions.push(changed),
                Err(refusal) => builder.refusals.push(refusal),
            }
        }
    }
    builder.take_along();
    let mut old_code = Vec::new();
    let functions = functions.into_iter();
    let functions = functions.map(|changed| changed.finish(&mut builder, &mut old_code));
    let functions = functions.collect();
    let unwind = builder.unwind(&old_code);
    // What cleans up may be the fix's own.
    builder.take_along();
    builder.finish_thunks();
    if !builder.refusals.is_empty() {
        builder.refusals.dedup();
        return Err(builder.refusals);
    }
    let image = builder.layout.finish(unwind, builder.escapes);
    let (build_id, file_name) = (binary.build_id.clone(), binary.file_name());
    Ok(Object {
        build_id,
        file_name,
        functions,
        image,
    })
}
