//! `overlay-cni` through the real binary, as a runtime calls it.

mod bed;
mod damage;
mod specification;
mod traffic;

use crate::harness::Group;

pub(crate) fn groups() -> Vec<Group> {
    vec![traffic::group(), specification::group(), damage::group()]
}
