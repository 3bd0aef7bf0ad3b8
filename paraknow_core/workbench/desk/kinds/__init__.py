"""One module a kind of question; each has `answer(place, settings, request)`. Only the desk process imports them."""
