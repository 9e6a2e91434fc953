//! The words of the CNI specification: versions, results, errors. Plain data; reads and writes JSON values and nothing else.
//!
//! <https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md>. Where the text and libcni differ, libcni is followed: the
//! error object goes to standard output, where libcni looks for it.

mod error;
mod result;
mod version;

pub use error::{CniError, code};
pub use result::{Attached, Interface, Ip, Route};
pub use version::{Command, Version};
