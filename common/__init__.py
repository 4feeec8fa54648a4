"""Building blocks that know no method; imports nothing by itself."""

# At the root of a checkout Python would find this folder as `common`, too.
if __name__ == 'common':
  raise ImportError('common is a part of dreamingv2: import dreamingv2.common')
