//! Which of its addresses this node has on the underlay, and why.
//!
//! Pure: a method as configured and what is known of host and Node go in, an address with its reason comes out. The facts are gathered by
//! `reconcile::address`. Never guesses: what fits nothing is an error that names what there is. docs/nodes.md tells operators of it.

mod choose;
mod method;
mod pattern;

pub use choose::{Choice, ChoiceError, Facts, Given, LocalAddress, choose};
pub use method::{BadMethod, Method, Target};
pub use pattern::{Pattern, Patterns};
