"""How channels are found: labels carried through one forward pass (`trace`), and what they say (`ChannelGraph`)."""
