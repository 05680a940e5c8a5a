"""A directory as an output, with a symlink and an executable in it."""

def _tree_impl(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        outputs = [out],
        inputs = ctx.files.srcs,
        command = "mkdir -p $1/sub/deep && cp $2 $1/sub/deep/file && echo '#!/bin/sh' > $1/tool && " +
                  "chmod +x $1/tool && ln -s sub/deep/file $1/link",
        arguments = [out.path, ctx.files.srcs[0].path],
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles(files = [out]))]

tree = rule(implementation = _tree_impl, attrs = {"srcs": attr.label_list(allow_files = True)})
