//! The facts of a model as its `config.json` states them.
