//! From what should be to what is: the plan, and the loop that carries it out.
//!
//! [`plan`] is pure. [`apply`] is one match over its actions, [`receive`] chooses how to receive, [`pass`] puts the pieces together once,
//! [`own_node`] chooses this node's address, [`run`] does so whenever there is a reason to look again. [`cleanup`] takes everything away.

pub mod apply;
pub mod cleanup;
pub mod own_node;
pub mod pass;
pub mod plan;
pub mod receive;
pub mod run;
