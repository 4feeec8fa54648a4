"""Makes text from other people's files safe to show.

A name in a score file may hold line breaks, a formula or a tag; a message may
quote all of it. Each function returns a string.
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
    # After a line break these would be its arguments.
    '[': '{[}', ']': '{]}', '*': '{*}', **{x: rf'\{x}' for x in '&%$#_{}'}}


def printable(text):
  """Writes what cannot be printed, such as a line break, as its escape."""
  return ''.join(
      x if x.isprintable() else x.encode('unicode_escape').decode()
      for x in str(text))


def line(text):
  """Makes one line of at most LENGTH characters; the middle may go."""
  text = printable(' '.join(str(text)[:10 * LENGTH].split()))
  half = LENGTH // 2
  return text if len(text) <= LENGTH else f'{text[:half]} ... {text[-half:]}'


def markdown(text):
  """Escapes what would be a mark, a tag or the end of a table's cell."""
  return ''.join(MARKDOWN.get(x, x) for x in printable(text))


def latex(text):
  """Escapes what LaTeX does not print as it stands."""
  return ''.join(LATEX.get(x, x) for x in printable(text))


def cell(value):
  """Escapes a cell of a CSV file that would be a formula; numbers stay."""
  if not isinstance(value, str):
    return value
  text = printable(value)
  return f"'{text}" if text.startswith(FORMULA) else text


def plot(text):
  """Escapes what Matplotlib takes for mathematics, or for no label."""
  text = printable(text).replace('$', r'\$')
  return f' {text}' if text.startswith('_') else text
