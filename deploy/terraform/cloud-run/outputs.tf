output "url" {
  description = "The service's URL."
  value       = google_cloud_run_v2_service.app.uri
}

output "service_account" {
  description = "Who calls: for grants that this module can't know, such as those of Identity-Aware Proxy."
  value       = google_service_account.app.email
}

output "base_urls" {
  description = "What the app calls, by the variable that it finds it in."
  value       = local.urls
}
