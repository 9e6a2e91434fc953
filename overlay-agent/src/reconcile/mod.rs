//! From what should be to what is: the plan, and the loop that carries it out.

pub mod plan;
