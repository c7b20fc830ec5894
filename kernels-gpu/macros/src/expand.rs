//! From a kernel's definition to its three forms.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Attribute, FnArg, GenericArgument, Ident, ItemFn, Pat, PathArguments, ReturnType, Type};

use crate::attribute::Statement;

/// One parameter of a kernel.
struct Param {
    name: Ident,
    /// As written in the kernel's signature.
    ty: Type,
    kind: Kind,
}

enum Kind {
    In(Type),
    Out(Type),
    InOut(Type),
    /// A matrix that the copy engine reads or writes in boxes; the element type.
    InBoxes(Type),
    OutBoxes(Type),
    Scalar,
}

pub fn expand(statement: &Statement, item: &ItemFn) -> syn::Result<TokenStream> {
    check_signature(item)?;
    let params = item.sig.inputs.iter().map(param).collect::<syn::Result<Vec<_>>>()?;
    let gpu = gpu_entry(statement, item);
    let launch_struct = launch_struct(item, &params);
    let launch_impl = launch_impl(statement, item, &params);
    Ok(quote! { #gpu #launch_struct #launch_impl })
}

fn check_signature(item: &ItemFn) -> syn::Result<()> {
    let sig = &item.sig;
    let refuse = |span: &dyn quote::ToTokens, what: &str| Err(syn::Error::new_spanned(span, what));
    if !sig.generics.params.is_empty() || sig.generics.where_clause.is_some() {
        return refuse(
            &sig.generics,
            "a kernel has one PTX symbol, so it cannot be generic; write the body as a generic function and \
             call it from one kernel per type",
        );
    }
    if let ReturnType::Type(_, ty) = &sig.output {
        return refuse(ty, "a kernel returns nothing; its results go to `Out` views");
    }
    if sig.asyncness.is_some()
        || sig.constness.is_some()
        || sig.abi.is_some()
        || !matches!(sig.safety, syn::Safety::Default)
    {
        return refuse(&sig.fn_token, "a kernel is a plain `fn`");
    }
    Ok(())
}

fn param(arg: &FnArg) -> syn::Result<Param> {
    let FnArg::Typed(arg) = arg else {
        return Err(syn::Error::new_spanned(arg, "a kernel has no `self`"));
    };
    let Pat::Ident(pat) = &*arg.pat else {
        return Err(syn::Error::new_spanned(&arg.pat, "a kernel's parameter is a plain name"));
    };
    Ok(Param { name: pat.ident.clone(), ty: (*arg.ty).clone(), kind: kind(&arg.ty) })
}

/// Views are known by the last word of their path. Anything else must implement `Scalar`, which the
/// generated code makes the compiler check.
fn kind(ty: &Type) -> Kind {
    let Type::Path(path) = ty else { return Kind::Scalar };
    let Some(last) = path.path.segments.last() else { return Kind::Scalar };
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return Kind::Scalar };
    let Some(GenericArgument::Type(element)) = arguments.args.first() else { return Kind::Scalar };
    match last.ident.to_string().as_str() {
        "In" => Kind::In(element.clone()),
        "Out" => Kind::Out(element.clone()),
        "InOut" => Kind::InOut(element.clone()),
        "InBoxes" => Kind::InBoxes(element.clone()),
        "OutBoxes" => Kind::OutBoxes(element.clone()),
        _ => Kind::Scalar,
    }
}

/// The PTX entry. Views are one bare pointer each, so that LLVM knows them to be global memory.
fn gpu_entry(statement: &Statement, item: &ItemFn) -> TokenStream {
    let ItemFn { attrs, vis, sig, block, .. } = item;
    let (name, inputs) = (&sig.ident, &sig.inputs);
    let stated = statement.expressions();
    let gpu = if statement.sm_90a {
        quote!(#[cfg(all(target_arch = "nvptx64", oxwarp_sm = "90a"))])
    } else {
        quote!(#[cfg(target_arch = "nvptx64")])
    };
    quote! {
        #(#attrs)*
        #gpu
        #[allow(clippy::too_many_arguments)]
        #[unsafe(no_mangle)]
        #vis extern "ptx-kernel" fn #name(#inputs) #block

        // The host's build evaluates the attribute; here its expressions only count as used.
        #[cfg(target_arch = "nvptx64")]
        const _: () = { #(let _ = #stated;)* };
    }
}

fn launch_struct(item: &ItemFn, params: &[Param]) -> TokenStream {
    let (docs, _) = split_docs(item);
    let (vis, name) = (&item.vis, &item.sig.ident);
    let lifetime = has_views(params).then(|| quote!(<'a>));
    let fields = params.iter().map(|Param { name, ty, kind }| {
        let doc = format!("Parameter `{name}` of the kernel.");
        let ty = match kind {
            Kind::In(element) => quote!(&'a ::kernels_gpu::launch::DeviceSlice<#element>),
            Kind::Out(element) | Kind::InOut(element) => {
                quote!(&'a mut ::kernels_gpu::launch::DeviceSlice<#element>)
            }
            Kind::InBoxes(element) => quote!(::kernels_gpu::launch::Matrix<'a, #element>),
            Kind::OutBoxes(element) => quote!(::kernels_gpu::launch::MatrixMut<'a, #element>),
            Kind::Scalar => quote!(#ty),
        };
        quote! { #[doc = #doc] pub #name: #ty }
    });
    quote! {
        #(#docs)*
        #[cfg(not(target_arch = "nvptx64"))]
        #[allow(non_camel_case_types)]
        #vis struct #name #lifetime { #(#fields),* }
    }
}

/// The documentation, which goes to the launch struct, and the other attributes, which go to the body.
fn split_docs(item: &ItemFn) -> (Vec<&Attribute>, Vec<&Attribute>) {
    item.attrs.iter().partition(|attribute| attribute.path().is_ident("doc"))
}

fn has_views(params: &[Param]) -> bool {
    params.iter().any(|param| !matches!(param.kind, Kind::Scalar))
}

fn launch_impl(statement: &Statement, item: &ItemFn, params: &[Param]) -> TokenStream {
    let (name, inputs, block) = (&item.sig.ident, &item.sig.inputs, &item.block);
    let (_, attrs) = split_docs(item);
    let anonymous = has_views(params).then(|| quote!(<'_>));
    let meta = meta(statement, name, params);
    let words = params.iter().map(argument_word);
    let binds = params.iter().enumerate().filter_map(|(index, param)| bind(index, param));
    let arguments = params.iter().map(|param| match param.kind {
        Kind::Scalar => {
            let name = &param.name;
            quote!(self.#name)
        }
        _ => {
            let bound = bound_name(param);
            quote!(#bound.view())
        }
    });
    quote! {
        #[cfg(not(target_arch = "nvptx64"))]
        const _: () = {
            #(#attrs)*
            #[allow(clippy::too_many_arguments)]
            #[inline(always)]
            fn body(#inputs) #block

            impl ::kernels_gpu::launch::Launch for #name #anonymous {
                const META: &'static ::kernels_gpu::launch::KernelMeta = &#meta;

                fn args(&self) -> ::kernels_gpu::launch::KernelArgs {
                    let mut args = ::kernels_gpu::launch::KernelArgs::default();
                    #(#words)*
                    args
                }

                fn run_emulated(
                    &self,
                    run: &mut ::kernels_gpu::simt::emulator::Run<'_>,
                ) -> ::core::result::Result<(), ::kernels_gpu::simt::emulator::Error> {
                    #(#binds)*
                    run.execute(&|| body(#(#arguments),*))
                }
            }

            ::kernels_gpu::register_kernel!(<#name as ::kernels_gpu::launch::Launch>::META);
        };
    }
}

fn meta(statement: &Statement, name: &Ident, params: &[Param]) -> TokenStream {
    let Statement { threads, shared, min_blocks, max_regs, cluster, allow_local, pdl, sm_90a } = statement;
    let name = name.to_string();
    let params = params.iter().map(|Param { name, ty, kind }| {
        let name = name.to_string();
        let (kind, ty) = match kind {
            Kind::In(element) => (quote!(In), element),
            Kind::Out(element) => (quote!(Out), element),
            Kind::InOut(element) => (quote!(InOut), element),
            Kind::InBoxes(element) => (quote!(InBoxes), element),
            Kind::OutBoxes(element) => (quote!(OutBoxes), element),
            Kind::Scalar => (quote!(Scalar), ty),
        };
        quote! {
            ::kernels_gpu::launch::ParamMeta {
                name: #name,
                kind: ::kernels_gpu::launch::ParamKind::#kind,
                ty: ::core::stringify!(#ty),
                bytes: ::core::mem::size_of::<#ty>() as u32,
            }
        }
    });
    let optional = |value: &Option<syn::Expr>| match value {
        Some(value) => quote!(::core::option::Option::Some((#value) as u32)),
        None => quote!(::core::option::Option::None),
    };
    let (min_blocks, max_regs, cluster) = (optional(min_blocks), optional(max_regs), optional(cluster));
    let shared = shared.as_ref().map_or_else(|| quote!(0), |bytes| quote!((#bytes) as u32));
    quote! {
        ::kernels_gpu::launch::KernelMeta {
            name: #name,
            threads: (#threads) as u32,
            shared_bytes: #shared,
            min_blocks: #min_blocks,
            max_regs: #max_regs,
            cluster: #cluster,
            allow_local: #allow_local,
            pdl: #pdl,
            sm_90a: #sm_90a,
            params: &[#(#params),*],
            module: ::core::module_path!(),
            file: ::core::file!(),
            line: ::core::line!(),
        }
        .checked()
    }
}

fn argument_word(param: &Param) -> TokenStream {
    let name = &param.name;
    match param.kind {
        Kind::Scalar => quote!(args.push_scalar(self.#name);),
        Kind::InBoxes(_) | Kind::OutBoxes(_) => {
            let ty = &param.ty;
            quote!(args.push_matrix(self.#name.boxes(<#ty>::BOX));)
        }
        _ => quote!(args.push_address(self.#name.address());),
    }
}

fn bound_name(param: &Param) -> Ident {
    format_ident!("bound_{}", param.name)
}

fn bind(index: usize, param: &Param) -> Option<TokenStream> {
    let (field, bound) = (&param.name, bound_name(param));
    let method = match param.kind {
        Kind::In(_) => quote!(bind_in),
        Kind::Out(_) => quote!(bind_out),
        Kind::InOut(_) => quote!(bind_in_out),
        Kind::InBoxes(_) => {
            return Some(quote!(let #bound = run.bind_in_boxes(#index, &self.#field)?;));
        }
        Kind::OutBoxes(_) => {
            return Some(quote!(let #bound = run.bind_out_boxes(#index, &self.#field)?;));
        }
        Kind::Scalar => return None,
    };
    Some(quote!(let #bound = run.#method(#index, &*self.#field)?;))
}
