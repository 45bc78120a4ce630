"""Checks of built manifests that no schema makes: do the parts name each other rightly, would the
"restricted" Pod Security Standard admit the pods, and does a stop fit into its grace period.

python check.py BUILT.yaml...
"""

import sys

import yaml

UNMADE = {"token-broker-ca", "kube-root-ca.crt"}  # ConfigMaps that others make
GRACE_LEFT = 1  # seconds for answers on their way


def seconds(span):
    return int(span.removesuffix("s"))


def check(objects):
    named = {(o["kind"], o["metadata"]["name"]) for o in objects}
    workloads = [o for o in objects if "template" in o.get("spec", {})]
    for workload in workloads:
        name = workload["metadata"]["name"]
        template, pod = workload["spec"]["template"], workload["spec"]["template"]["spec"]
        labels = template["metadata"]["labels"].items()
        context = pod["securityContext"]

        def need(what, true):
            if not true:
                yield f"{name}: {what}"

        yield from need("selector misses its own pods", workload["spec"]["selector"]["matchLabels"].items() <= labels)
        yield from need("no such ServiceAccount", ("ServiceAccount", pod["serviceAccountName"]) in named)
        yield from need("mounts the default token", pod.get("automountServiceAccountToken") is False)
        if workload["kind"] == "StatefulSet":
            yield from need("no such headless Service", ("Service", workload["spec"]["serviceName"]) in named)
        for spread in pod.get("topologySpreadConstraints", []):
            yield from need("spreads over other pods", spread["labelSelector"]["matchLabels"].items() <= labels)
        yield from need("may run as root", context.get("runAsNonRoot") is True and context.get("runAsUser") != 0)
        yield from need("no seccomp profile", context.get("seccompProfile", {}).get("type") == "RuntimeDefault")
        volumes = {v["name"] for v in pod["volumes"]}
        volumes |= {v["metadata"]["name"] for v in workload["spec"].get("volumeClaimTemplates", [])}
        for volume in pod["volumes"]:
            for source in volume.get("projected", {}).get("sources", [volume]):
                config = source.get("configMap", {}).get("name")
                known = config is None or config in UNMADE or ("ConfigMap", config) in named
                yield from need(f"no such ConfigMap {config}", known)
            yield from need(f"volume of the host: {volume['name']}", "hostPath" not in volume)
        for container in pod["containers"]:
            inner = container["securityContext"]
            yield from need("may gain rights", inner.get("allowPrivilegeEscalation") is False)
            yield from need("writes to its image", inner.get("readOnlyRootFilesystem") is True)
            yield from need("keeps capabilities", inner.get("capabilities") == {"drop": ["ALL"]})
            yield from need("image has no tag", ":" in container["image"].rsplit("/", 1)[-1])
            for mount in container["volumeMounts"]:
                yield from need(f"no such volume {mount['name']}", mount["name"] in volumes)
                yield from need(f"{mount['mountPath']} is never renewed", "subPath" not in mount)
            ports = {p.get("name"): p["containerPort"] for p in container.get("ports", [])}
            for probe in ("livenessProbe", "readinessProbe"):
                for kind in ("grpc", "httpGet"):
                    port = container.get(probe, {}).get(kind, {}).get("port")
                    known = port is None or port in ports or port in ports.values()
                    yield from need(f"{probe} asks port {port}", known)
            for service in (o for o in objects if o["kind"] == "Service"):
                if service["spec"]["selector"].items() <= labels:
                    for port in service["spec"]["ports"]:
                        target = port.get("targetPort", port["port"])
                        known = target in ports or target in ports.values()
                        yield from need(f"Service leads to port {target}", known)
    for guard, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for o in (o for o in objects if o["kind"] == guard):
            wanted = o["spec"][key].get("matchLabels", {}).items()
            if not any(wanted <= w["spec"]["template"]["metadata"]["labels"].items() for w in workloads):
                yield f"{guard} is about no pod"
    for o in objects:
        if o["kind"] == "ConfigMap" and "config.yaml" in o.get("data", {}):
            config = yaml.safe_load(o["data"]["config.yaml"])
            providers = config["providers"].values()
            listen = max([60, *(seconds(p["listen_max"]) for p in providers if "listen_max" in p)])
            stop = config["shutdown"]
            longest = seconds(stop["drain_delay"]) + seconds(stop.get("drain_max", f"{listen + 5}s"))
            grace = workloads[0]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            if longest + GRACE_LEFT >= grace:
                yield f"a stop may take {longest + GRACE_LEFT} s, and is cut after {grace} s"


def main():
    wrong = []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            objects = [o for o in yaml.safe_load_all(file) if o]
        wrong += [f"{path}: {what}" for what in check(objects)]
    sys.exit("\n".join(wrong) or 0)


main()
