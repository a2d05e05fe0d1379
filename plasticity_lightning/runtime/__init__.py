"""What every recipe needs and Lightning lacks."""
