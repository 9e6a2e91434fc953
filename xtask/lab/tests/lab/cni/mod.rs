//! `overlay-cni` through the real binary, as a runtime calls it.

pub(crate) mod bed;
mod traffic;

use crate::harness::Group;

pub(crate) fn groups() -> Vec<Group> {
    vec![traffic::group()]
}
