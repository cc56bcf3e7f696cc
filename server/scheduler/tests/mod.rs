//! The scheduler against a model that checks every page it is given: cases by hand, seeded chaos, and the loop.
mod cases;
mod chaos;
mod looping;
mod model;
