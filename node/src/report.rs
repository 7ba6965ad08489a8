//! Reports: one self-contained HTML page with plots, the same look for every verb that writes one.

pub(crate) mod page;
pub(crate) mod plot;
