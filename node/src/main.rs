//! t
mod cli;
mod control;
mod events;
mod folder;
mod hex;
mod identity;
mod report;
mod status;
mod store;
mod supervisor;
mod web;
fn main() {}
