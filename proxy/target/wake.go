package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
)

// A Waker sends magic packets, which wake a machine whose network card listens for them
// while it sleeps: six bytes 0xff and then the card's address sixteen times, in UDP (AMD,
// Magic Packet Technology, 1995).
type Waker struct {
	MAC  net.HardwareAddr // of the machine's network card
	Addr string           // where the packets go, host:port; empty: to port 9 (discard) of the broadcast address of each interface that is up
}

// Wake sends one packet, to each address that there is. It is an error if it could be sent
// to none; nobody can tell whether it got there.
func (w *Waker) Wake(ctx context.Context) error {
	to := []string{w.Addr}
	if w.Addr == "" {
		var err error
		if to, err = broadcastAddrs(); err != nil {
			return err
		}
	}
	packet := append(bytes.Repeat([]byte{0xff}, 6), bytes.Repeat(w.MAC, 16)...)
	var failed []error
	for _, addr := range to {
		if err := sendUDP(ctx, addr, packet); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) == len(to) {
		return errors.Join(failed...)
	}
	return nil
}

// sendUDP sends a packet from a socket of its own. Go lets each send to broadcast
// addresses (SO_BROADCAST).
func sendUDP(ctx context.Context, addr string, packet []byte) error {
	c, err := new(net.Dialer).DialContext(ctx, "udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(packet)
	return err
}

// broadcastAddrs returns port 9 of the broadcast address of every interface that is up.
func broadcastAddrs() ([]string, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var to []string
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagBroadcast == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", i.Name, err)
		}
		for _, addr := range addrs {
			if n, ok := addr.(*net.IPNet); ok && n.IP.To4() != nil {
				to = append(to, net.JoinHostPort(broadcastOf(n).String(), "9"))
			}
		}
	}
	if len(to) == 0 {
		return nil, errors.New("no network interface is up that has a broadcast address")
	}
	return to, nil
}

// broadcastOf returns the broadcast address of a network of IPv4.
func broadcastOf(n *net.IPNet) net.IP {
	ip := slices.Clone(n.IP.To4())
	for i, mask := range n.Mask {
		ip[i] |= ^mask
	}
	return ip
}

// IsRefused reports whether a connection could not be made because the host's machine
// refused it: it is up, and nothing listens there.
func IsRefused(err error) bool {
	const wsaeconnrefused = syscall.Errno(10061) // as Windows has it, and nobody else
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaeconnrefused)
}

// IsUnconnected reports whether a request failed because it had no connection: nothing of
// it was sent.
func IsUnconnected(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}
