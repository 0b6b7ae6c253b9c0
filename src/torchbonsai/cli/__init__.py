"""The commands of `bonsai`: one file a subcommand, a thin command over a function of the library."""
