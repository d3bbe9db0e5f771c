//! The built-in table of accelerator products.
