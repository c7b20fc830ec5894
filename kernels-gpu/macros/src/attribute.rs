//! The arguments of `#[kernel(...)]`.

use proc_macro2::Span;
use syn::parse::{Parse, ParseStream};
use syn::{Expr, Ident, Token};

/// What a `#[kernel(...)]` states; expressions stay as written and are evaluated by the compiler.
#[derive(Default)]
pub struct Statement {
    pub threads: Option<Expr>,
    pub shared: Option<Expr>,
    pub min_blocks: Option<Expr>,
    pub max_regs: Option<Expr>,
    pub cluster: Option<Expr>,
    pub allow_local: bool,
    pub pdl: bool,
    pub sm_90a: bool,
}

impl Statement {
    /// All expressions that are stated.
    pub fn expressions(&self) -> impl Iterator<Item = &Expr> {
        [&self.threads, &self.shared, &self.min_blocks, &self.max_regs, &self.cluster].into_iter().flatten()
    }
}

impl Parse for Statement {
    fn parse(input: ParseStream) -> syn::Result<Self> {
        let mut statement = Statement::default();
        while !input.is_empty() {
            let name: Ident = input.parse()?;
            match name.to_string().as_str() {
                "threads" => set(&mut statement.threads, &name, input)?,
                "shared" => set(&mut statement.shared, &name, input)?,
                "min_blocks" => set(&mut statement.min_blocks, &name, input)?,
                "max_regs" => set(&mut statement.max_regs, &name, input)?,
                "cluster" => set(&mut statement.cluster, &name, input)?,
                "allow_local" => statement.allow_local = true,
                "pdl" => statement.pdl = true,
                "sm_90a" => statement.sm_90a = true,
                _ => {
                    return Err(syn::Error::new(
                        name.span(),
                        format!(
                            "unknown argument `{name}`; known are threads, shared, min_blocks, max_regs, \
                             cluster, allow_local, pdl and sm_90a"
                        ),
                    ));
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        if statement.threads.is_none() {
            return Err(syn::Error::new(Span::call_site(), "#[kernel] needs `threads = N`"));
        }
        Ok(statement)
    }
}

fn set(slot: &mut Option<Expr>, name: &Ident, input: ParseStream) -> syn::Result<()> {
    if slot.is_some() {
        return Err(syn::Error::new(name.span(), format!("`{name}` is stated twice")));
    }
    input.parse::<Token![=]>()?;
    *slot = Some(input.parse()?);
    Ok(())
}
