//! What is known about a model: from the user, from the built-in catalogue, from the model's own `config.json`.

pub mod catalogue;
pub mod config;
mod layers;
mod quantization;
pub mod resolve;
