//! Every GPU kernel of Oxwarp, and the DSL they are written in.
