"""The answers to the questions in `requests`, one file a subject. Only the desk process imports them."""
