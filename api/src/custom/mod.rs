//! Kinds that are added at run time: CustomResourceDefinitions, and the kinds that they bring.
//!
//! * `definition`: the kind CustomResourceDefinition itself; `rules`, `structural` and `keywords` say which are taken.
//! * `names`: which names a definition gets, and the conditions that say so.
//! * `object`: from a definition to its kinds.
//! * `node`, `walk`, `judge`, `format`, `path`: a schema made ready; unknown fields and defaults; validation; paths.

mod definition;
mod format;
mod judge;
mod keywords;
mod names;
mod node;
mod object;
mod path;
mod rules;
mod structural;
mod walk;

pub(crate) use definition::kind;
pub use definition::{CLEANUP_FINALIZER, GROUP, KIND, PLURAL, VERSION};
pub use names::{is_established, is_settled, set_condition, settle};
pub use object::{kinds, priority};
pub use path::FieldPath;
pub use rules::is_open_group;
