// libevent's configure script writes system extensions here; build.ninja's flags have them.
#ifndef EVCONFIG_PRIVATE_H_INCLUDED_
#define EVCONFIG_PRIVATE_H_INCLUDED_
#endif
