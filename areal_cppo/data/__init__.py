"""Problems with images and checkable answers, from public datasets or a user's own."""
