//! What the kernel programs and the agent share, and nothing else.
//!
//! Three parts: the contract ([`abi`], [`counters`], [`reason`]), the headers as bytes ([`wire`]) and the packet code that both the
//! kernel and the host tests run ([`packet`], [`parse`], [`encap`]).
//! No I/O, no allocation, no kernel call, no `unsafe`: what needs those lives in `overlay-ebpf` and `overlay-agent`.

#![no_std]
#![forbid(unsafe_code)]

pub mod abi;
pub mod checksum;
pub mod counters;
pub mod ecn;
pub mod encap;
pub mod packet;
pub mod parse;
pub mod reason;
pub mod wire;
