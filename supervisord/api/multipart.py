"""A form with one file (RFC 7578), read while it comes: its texts are kept, the file's bytes are handed on."""

from collections.abc import Sequence

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from supervisord.api.form import boundary_of
from supervisord.core.errors import InvalidRequestError

MOST_FIELDS = 16  # OpenAI's SDK sends two to four
LONGEST_TEXT = 4096  # bytes of a field that is no file
LONGEST_FILENAME = 255  # characters, as file systems have it


class Form:
    """`texts`: the fields that have come whole, by name. `filename`: of the file; None before it has begun."""

    def __init__(self, content_type: str) -> None:
        """`content_type` as the request's head has it. Raises UnsupportedMediaTypeError."""
        boundary = boundary_of(content_type)
        self.texts: dict[str, str] = {}
        self.filename: str | None = None
        self._name = ""
        self._is_file = False
        self._text = bytearray()
        self._header = (bytearray(), bytearray())  # name and value of the one that is read
        self._fields = 0
        self._whole = False
        self._file: list[bytes] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Take what came of the body; what there was of the file in it. Raises InvalidRequestError."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequestError(f"The form is broken: {error}.") from None
        found, self._file = self._file, []
        return found

    def finish(self) -> None:
        """The body is over. Raises InvalidRequestError where the form is not."""
        if not self._whole:
            raise InvalidRequestError("The form is broken: it has no end.")

    # --- what the parser calls ----------------------------------------------------------------------------------------

    def _on_part_begin(self) -> None:
        self._fields += 1
        if self._fields > MOST_FIELDS:
            raise InvalidRequestError(f"The form has more than {MOST_FIELDS} fields.")
        self._name = ""
        self._is_file = False
        self._text = bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _on_header_end(self) -> None:
        name, value = bytes(self._header[0]).lower(), bytes(self._header[1])
        self._header = (bytearray(), bytearray())
        if name == b"content-disposition":
            self._on_disposition(value)
        elif name == b"content-transfer-encoding" and value.lower() not in {b"binary", b"8bit", b"7bit"}:
            raise InvalidRequestError("The fields of a form are taken as they are: send them unencoded.")

    def _on_disposition(self, value: bytes) -> None:
        _, options = parse_options_header(value)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename")
        if self._name != "file" and filename is None:
            return
        if self._name != "file" or filename is None:
            raise InvalidRequestError('The field "file" must be the file, and the only one.', param="file")
        if self.filename is not None:
            raise InvalidRequestError('There are two fields "file".', param="file")
        self._is_file = True
        self.filename = _plain(filename.decode("utf-8", "replace"))

    def _on_headers_finished(self) -> None:
        if not self._name:
            raise InvalidRequestError("The form has a field without a name.")
        if self._name in self.texts:
            raise InvalidRequestError(f'There are two fields "{self._name}".', param=self._name)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._file.append(data[start:end])
            return
        self._text.extend(data[start:end])
        if len(self._text) > LONGEST_TEXT:
            raise InvalidRequestError(f'The field "{self._name}" is too long.', param=self._name)

    def _on_part_end(self) -> None:
        if not self._is_file:
            self.texts[self._name] = self._text.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self._whole = True


def _plain(filename: str) -> str:
    """The name alone, as it can be shown: some clients send the way to it."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in name if c.isprintable())[:LONGEST_FILENAME] or "file"
