//! `#[kernel]`: PTX entry, typed launch struct and emulator entry from one definition.
