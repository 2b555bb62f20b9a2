//! Builds the Holdfast node image.
