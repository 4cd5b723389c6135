"""
The commands: `vtn NAME …` runs the `main(argv)` of the module NAME here, and so does `python -m vtn_hf.commands.NAME`.

To add one, add a module with a `main` that is decorated with [`console.command`], and a row to `vtn_cli.COMMANDS`.
"""
