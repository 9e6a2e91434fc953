//! `overlay-cni` through the real binary, as a runtime calls it.

pub(crate) mod bed;
mod chains;
mod damage;
mod failing;
mod gone;
mod specification;
mod stress;
mod traffic;

use crate::harness::Group;

pub(crate) fn groups() -> Vec<Group> {
    vec![traffic::group(), specification::group(), failing::group(), damage::group(), gone::group(), chains::group(), stress::group()]
}
