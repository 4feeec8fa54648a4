"""Makes text from other people's files safe to show.

A name in a score file may contain line breaks, a formula or a tag, and an
error message may quote it. Each function but `table` returns a string.
"""

LENGTH = 300  # characters of a line
# A spreadsheet runs a cell that begins with one of these.
FORMULA = ('=', '+', '-', '@', '\t', '\r')
MARKDOWN = {
    '\\': '\\\\', '|': '\\|', '<': '&lt;', '`': '\\`', '*': '\\*',
    '[': '\\[', ']': '\\]'}
LATEX = {
    '\\': r'\textbackslash{}', '±': r'$\pm$', '–': '--', '~': r'\~{}',
    '^': r'\^{}', '<': r'\textless{}', '>': r'\textgreater{}',
    '|': r'\textbar{}', '"': r'\textquotedbl{}',
    # LaTeX takes these for arguments of a preceding line break.
    '[': '{[}', ']': '{]}', '*': '{*}', **{x: rf'\{x}' for x in '&%$#_{}'}}


def printable(text):
  """Escapes characters that cannot be printed, such as a line break."""
  return ''.join(
      x if x.isprintable() else x.encode('unicode_escape').decode()
      for x in str(text))


def line(text):
  """Makes one line, and shortens it in the middle if it is too long."""
  text = printable(' '.join(str(text)[:10 * LENGTH].split()))
  half = LENGTH // 2
  return text if len(text) <= LENGTH else f'{text[:half]} ... {text[-half:]}'


def markdown(text):
  """Escapes Markdown marks, HTML tags and the bar that ends a table cell."""
  return ''.join(MARKDOWN.get(x, x) for x in printable(text))


def latex(text):
  """Escapes characters that have a special meaning in LaTeX."""
  return ''.join(LATEX.get(x, x) for x in printable(text))


def cell(value):
  """Escapes text in a CSV cell that a spreadsheet would run as a formula."""
  if not isinstance(value, str):
    return value
  text = printable(value)
  return f"'{text}" if text.startswith(FORMULA) else text


def plot(text):
  """Escapes `$`, which starts mathematics in Matplotlib, and a leading `_`."""
  text = printable(text).replace('$', r'\$')
  return f' {text}' if text.startswith('_') else text


def table(head, rows):
  """Returns the lines of a Markdown table; cells stay as they are."""
  return [f"| {' | '.join(x)} |" for x in (head, ['---'] * len(head), *rows)]
