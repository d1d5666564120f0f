"""What is said to a guest, and by whom it answers: QEMU's guest agent in a disk image, our init in a container's."""
