/*
 * Maps the weights. Nothing in the file is trusted: it must have the very size, header and bytes that this program
 * was compiled with. Gives 0, or -1 with the reason in `why`.
 */
static int map_weights(const char *path, int check, const uint8_t **file, char *why, size_t room) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat found;
  if (fd < 0 || fstat(fd, &found)) {
    snprintf(why, room, "%s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return -1;
  }
  if (!S_ISREG(found.st_mode) || (uint64_t)found.st_size != FILE_BYTES) {
    snprintf(why, room, "%s: has %lld bytes, not the %llu of this model's weights; copy the file again", path,
             (long long)found.st_size, (unsigned long long)FILE_BYTES);
    close(fd);
    return -1;
  }
  void *map = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (map == MAP_FAILED) {
    snprintf(why, room, "%s: cannot be mapped: %s", path, strerror(errno));
    return -1;
  }
  *file = (const uint8_t *)map;
  madvise(map, FILE_BYTES, MADV_WILLNEED);
  const char *damaged = checksum(*file, HEADER_BYTES) == HEADER_SUM ? NULL : "its header";
  for (size_t i = 0; check && !damaged && i < sizeof tensors / sizeof *tensors; i++)
    if (checksum(*file + tensors[i].offset, tensors[i].bytes) != tensors[i].sum) damaged = tensors[i].name;
  if (!damaged) return 0;
  snprintf(why, room, "%s: is damaged, or belongs to another model: %s differs; copy the file again", path, damaged);
  munmap(map, FILE_BYTES);
  *file = NULL;
  return -1;
}
