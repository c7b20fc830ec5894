//! Every GPU kernel of Oxwarp, and the DSL they are written in.

#![cfg_attr(target_arch = "nvptx64", no_std)]

pub mod quant;
