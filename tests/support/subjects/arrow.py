"""What ADBC is without, whatever the database."""

__all__ = ["WITHOUT"]

WITHOUT = {
    "names": "ADBC's rows are tuples only",
    "procedures": "ADBC's callproc() says that it is not supported",
    "result sets": "ADBC's nextset() says that it is not supported",
}
