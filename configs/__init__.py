"""Search recipes as YAML files; each names the table of the paper that it follows."""
