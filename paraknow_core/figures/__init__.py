"""Pictures of single pages: plain data and DataFrames in, Plotly figures out, no I/O. One module a page;
`maps` has what several pages draw, `style` and `draw` what all figures share."""
