//! The built-in catalogue of models.
