# Say things that a terminal would obey, in output and in error text.
os.write(1, b"\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b5n\r\n")
os.write(2, b"\x1b]52;c;cHduZWQ=\x07\x1bP+q544e\x1b\\\xe2\x80\xae\n")
os._exit(3)
