/*
 * Threads that go through every step together, each with its own share of the rows. They meet at barriers; who waits
 * spins for some microseconds and then lets other programs run.
 */
struct team {
  int count;
  pthread_t *workers;
  struct thread *threads;
  void (*step)(void *model, const struct thread *t);
  void *model;
  atomic_int arrived;
  atomic_uint phase;
  atomic_uint started;
  atomic_int leaving;
  pthread_mutex_t lock;
  pthread_cond_t wake;
};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

enum { SPINS = 300, IDLE_SPINS = 2000 };

/* Returns once every thread has come here. What was written before is seen by all after. */
static void meet(const struct thread *t) {
  struct team *team = t->team;
  if (t->count == 1) return;
  const unsigned phase = atomic_load_explicit(&team->phase, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) == t->count - 1) {
    atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&team->phase, phase + 1, memory_order_release);
    return;
  }
  for (int spins = 0; atomic_load_explicit(&team->phase, memory_order_acquire) == phase; spins++) {
    if (spins < SPINS) relax();
    else sched_yield();
  }
}

static void *work(void *argument) {
  const struct thread *t = argument;
  struct team *team = t->team;
  for (unsigned seen = 0;; seen++) {
    for (int spins = 0; spins < IDLE_SPINS; spins++) {
      if (atomic_load_explicit(&team->started, memory_order_acquire) != seen) break;
      relax();
    }
    if (atomic_load_explicit(&team->started, memory_order_acquire) == seen) {
      pthread_mutex_lock(&team->lock);
      while (atomic_load_explicit(&team->started, memory_order_acquire) == seen)
        pthread_cond_wait(&team->wake, &team->lock);
      pthread_mutex_unlock(&team->lock);
    }
    if (atomic_load_explicit(&team->leaving, memory_order_relaxed)) return NULL;
    team->step(team->model, t);
  }
}

static void start(struct team *team) {
  pthread_mutex_lock(&team->lock);
  atomic_fetch_add_explicit(&team->started, 1, memory_order_release);
  pthread_cond_broadcast(&team->wake);
  pthread_mutex_unlock(&team->lock);
}

/* Every thread, the caller's among them, goes through one step. The step ends where all have met. */
static void team_run(struct team *team) {
  if (team->count > 1) start(team);
  team->step(team->model, &team->threads[0]);
}

static void team_close(struct team *team) {
  if (team->workers) {
    atomic_store_explicit(&team->leaving, 1, memory_order_relaxed);
    start(team);
    for (int i = 1; i < team->count; i++) pthread_join(team->workers[i], NULL);
    pthread_mutex_destroy(&team->lock);
    pthread_cond_destroy(&team->wake);
  }
  free(team->workers);
  free(team->threads);
}

/* Keeps thread `id` on one of the processors that the program may use. */
static void pin_thread(pthread_t thread, int id) {
#ifdef __linux__
  cpu_set_t allowed, own;
  if (sched_getaffinity(0, sizeof allowed, &allowed) || CPU_COUNT(&allowed) < 2) return;
  int turn = id % CPU_COUNT(&allowed);
  CPU_ZERO(&own);
  for (int i = 0; i < CPU_SETSIZE; i++)
    if (CPU_ISSET(i, &allowed) && turn-- == 0) CPU_SET(i, &own);
  pthread_setaffinity_np(thread, sizeof own, &own);
#else
  (void)thread, (void)id;
#endif
}

/* Gives 0, or -1 when the system has no threads or memory left. */
static int team_open(struct team *team, int count, int pin, void (*step)(void *, const struct thread *), void *model) {
  team->step = step;
  team->model = model;
  team->threads = calloc((size_t)count, sizeof *team->threads);
  team->workers = calloc((size_t)count, sizeof *team->workers);
  pthread_mutex_init(&team->lock, NULL);
  pthread_cond_init(&team->wake, NULL);
  if (!team->threads || !team->workers) return -1;
  team->threads[0] = (struct thread){team, 0, count};
  for (team->count = 1; team->count < count; team->count++) {
    const int id = team->count;
    team->threads[id] = (struct thread){team, id, count};
    if (pthread_create(&team->workers[id], NULL, work, &team->threads[id])) return -1;
    if (pin) pin_thread(team->workers[id], id);
  }
  return 0;
}
