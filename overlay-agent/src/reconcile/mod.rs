//! From what should be to what is: the plan, and the loop that carries it out.
//!
//! [`plan`] is pure, and so is [`part`], which cuts out what changed. [`apply`] is one match over its actions, [`receive`] chooses how to receive, [`pass`] puts the pieces together once,
//! [`own_node`] chooses this node's address, [`run`] does so whenever there is a reason to look again. [`cleanup`] takes everything away.

pub mod apply;
pub mod cleanup;
mod due;
pub mod own_node;
pub mod part;
pub mod pass;
mod past;
pub mod plan;
mod pods;
pub mod receive;
pub mod run;
