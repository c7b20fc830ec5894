//! The project's commands: `cargo xtask setup|build-ptx|demo|test|tidy`.

fn main() {
    println!("usage: cargo xtask <setup|build-ptx|demo|test|tidy>");
}
