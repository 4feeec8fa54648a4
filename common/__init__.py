"""Building blocks that know no method; imports nothing by itself."""
